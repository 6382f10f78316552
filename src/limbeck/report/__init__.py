"""Shows a run: one HTML page that opens offline, and the same verdict and table for the terminal."""

from __future__ import annotations

from limbeck.report.methods import methods_table
from limbeck.report.render import render, write
from limbeck.report.shipping import recommended, sentences
from limbeck.report.table import terminal_table
from limbeck.report.verdict import verdict

__all__ = ["methods_table", "recommended", "render", "sentences", "terminal_table", "verdict", "write"]
