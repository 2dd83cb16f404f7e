"""Pages for the browser: one HTML file each, with its data, styles and scripts inside."""
