"""Pictures of a run."""

from retrieval.report.curves import plot_training
from retrieval.report.gallery import GalleryRow, Neighbour, plot_gallery

__all__ = ["GalleryRow", "Neighbour", "plot_gallery", "plot_training"]
