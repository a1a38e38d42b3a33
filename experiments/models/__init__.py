"""Networks in use: training at a site, prediction of scans, model folders, devices."""
