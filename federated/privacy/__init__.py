"""Privacy policies: how a site changes an update before it leaves, and what that guarantees."""
