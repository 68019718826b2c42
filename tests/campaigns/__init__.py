"""Campaigns: the whole product broken, loaded or measured for longer than a test may take; `make crash` and its like.

report   what a campaign prints, and the section of a document that it writes
audit    whether anything was lost: our database against the provider's books

crash        random kills of the running stack under load
boundaries   one process killed at every place where it could die
"""
