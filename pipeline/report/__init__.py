"""The report: a folder that opens in any browser as file://, without a network, made from the run's folder alone."""

from pipeline.report.page import Options, write_report

__all__ = ["Options", "write_report"]
