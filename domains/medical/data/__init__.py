"""Scans: from files to patches."""
