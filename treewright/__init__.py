"""Treewright grows a language model from pull requests. This room is the front door: the `treewright` command."""

__version__ = "0.1.0"
