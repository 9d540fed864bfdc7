"""Image-retrieval metric learning on recall@k itself, through a real ranking solver."""

__version__ = "0.1.0"
