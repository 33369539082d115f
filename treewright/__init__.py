"""Treewright grows a language model from pull requests; this room is its front door, the command."""

__version__ = "0.1.0"
