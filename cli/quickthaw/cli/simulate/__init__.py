"""What `quickthaw bench simulate` shows: tables, charts, advice. The scheduler's own package
`quickthaw.scheduler.simulate` does the work.
"""
