"""What a site's privacy policy does to an update before it leaves, and what that guarantees."""
