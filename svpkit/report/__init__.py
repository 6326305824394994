"""Evidence to people: the HTML report, the model card and the table on the terminal."""

from svpkit.report.card import model_card
from svpkit.report.html import Story, write_report
from svpkit.report.table import summary_table

__all__ = ["Story", "model_card", "summary_table", "write_report"]
