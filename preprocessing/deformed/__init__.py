"""Stand-ins for patients: deformed copies of real scans, some with a painted tumour."""
