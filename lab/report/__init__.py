"""One renderer for every surface: pull request comment, check runs, job summary, cards, terminal.

`markdown.py` is the only escaping path; each other module is one surface, as pure functions from a view to
text, so that all wording can be reviewed and snapshot-tested in one place.
"""
