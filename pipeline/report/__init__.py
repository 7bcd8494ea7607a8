"""The report: a folder that opens in any browser as file://, without a network, made from the run's folder alone."""

from pipeline.report.page import Options, write_report
from pipeline.report.panel import study_page, study_value
from pipeline.report.pictures import keep_highest

__all__ = ["Options", "keep_highest", "study_page", "study_value", "write_report"]
