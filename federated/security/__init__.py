"""The members of a federation, and what may leave a site.

Certificates, TLS, credentials, kits, revocation, and the filter for reports.
"""
