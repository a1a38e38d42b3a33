"""Who is who and what may leave: certificates, TLS, credentials, kits, revocation, the filter of
reports.
"""
