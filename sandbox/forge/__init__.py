"""A forge on this machine: GitHub's REST API, smart HTTP Git, webhooks, Actions and pages over real bare
repositories.

For the demo, the tests and an operator's self-test. It listens on loopback only. Run it with
`treewright sandbox forge --data DIR --port 0`; in process with `sandbox.forge.state.Forge` and
`sandbox.forge.serve.create_app`. What it does not have is listed in `serve.py`.
"""
