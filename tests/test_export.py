def test_x(run):
    import json
    print(run.folder, json.dumps(json.loads((run.folder/"model/config.json").read_text()))[:1800])
    import os; print(os.listdir(run.folder/"model"), os.listdir(run.folder))
    print(json.loads((run.folder/"run.json").read_text())["artifacts"].keys())
    print(json.loads((run.folder/"model/reference.json").read_text())["calibrator"])
    import time
    from svpkit.export.subject import subject
    s=subject(run); print(s.images.shape, s.checked_on, s.added, s.calibrator)
    for to in ("timm","onnx"):
        t=time.time(); print(run.export(to=to,out=f"/tmp/xx_{to}_{os.getpid()}"), time.time()-t)
