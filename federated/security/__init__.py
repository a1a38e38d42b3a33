"""Who takes part, and what may leave a site.

Certificates, TLS, credentials, kits, revocation, and the filter of reports.
"""
