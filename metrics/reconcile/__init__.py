"""The independent auditor of the figures: are the laws of docs/figures.md kept?

By SQL and journal bytes alone. What makes and tells figures (fold, writer, trackers, seeding, queries) is not imported
here, a test sees to it: a mistake there must not be made twice.
"""
