"""Names of the entries of Flower's messages."""

ARRAYS, CONFIG, METRICS = "arrays", "config", "metrics"  # records of a message
ROUND = "server-round"  # Flower's own entry of the server's config; from 1
NUM_EXAMPLES = "num-examples"  # Flower's own entry of the site's metrics
SITE = "site"  # the site's name, in a SuperNode's --node-config and in its replies
