"""What each page shows, as plain data: a function a page, which is drawn as HTML and given as JSON alike."""
