"""The configurations that ship with the project; `retrieval config list` shows them."""
