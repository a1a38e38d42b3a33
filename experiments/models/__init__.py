"""Networks at work: training at a site, prediction of scans, model folders, devices."""
