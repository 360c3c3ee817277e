"""The journal, the ledger and everything else that must survive the process."""
