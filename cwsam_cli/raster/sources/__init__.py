"""Where rasters come from: files, archives, servers, object stores, STAC; and what is known of them."""
