"""One recording of a run, and its readers: what layers cost, what operators move and multiply, who reads what.

``record`` runs a model once and writes every call down; all else here are plain functions over what it wrote.
"""
