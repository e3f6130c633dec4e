"""What people look at: a picture of before and after, one page for a batch."""

from medldm.report.page import write_page
from medldm.report.preview import write_preview

__all__ = ["write_page", "write_preview"]
