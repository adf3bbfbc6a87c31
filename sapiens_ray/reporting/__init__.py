"""What an output holds, as numbers and as a page: `sapiens-ray report`.

`make_report` reads the columns with statistics of all rows once (`chunks`, `statistics`), chooses the rows that the
page shows (`rows`), draws their thumbnails (`drawing`), and puts the page together (`page`).
"""

from sapiens_ray.reporting.report import Report, ReportOptions, make_report

__all__ = ["Report", "ReportOptions", "make_report"]
