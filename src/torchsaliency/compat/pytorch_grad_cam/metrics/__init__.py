"""Metrics of maps by the change of a score, under the other library's names."""
