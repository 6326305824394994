"""A run's networks written as other libraries open them: timm, ONNX, diffusers."""
