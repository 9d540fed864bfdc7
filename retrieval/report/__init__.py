"""Pictures of a run, and a report on a set of embeddings as one page."""

from retrieval.files.outputs import REPORT_MARK as MARK
from retrieval.report.analysis import Analysis, Images, analyse
from retrieval.report.curves import plot_training
from retrieval.report.gallery import PICTURE_MARK, GalleryRow, Neighbour, plot_gallery
from retrieval.report.headline import caution_of
from retrieval.report.report_page import Facts, Report, make_report
from retrieval.report.search_page import SEARCH_MARK, write_search_page

__all__ = [
    "MARK",
    "PICTURE_MARK",
    "SEARCH_MARK",
    "Analysis",
    "Facts",
    "GalleryRow",
    "Images",
    "Neighbour",
    "Report",
    "analyse",
    "caution_of",
    "make_report",
    "plot_gallery",
    "plot_training",
    "write_search_page",
]
