"""The GitHub App: webhooks come in, checks and one comment go out, approvals become merges and releases.

`web.py` receives, `inbox.py` hands on, `jobs.py` runs durable work, one thing at a time per pull request;
`review.py`, `approve.py` and `release.py` are what the work is. `commands.py` and `policy.py` are pure. Run:
`treewright bot run`.
"""
