"""apply.py, which puts this project into a checkout, and its parts. Standard library alone."""
