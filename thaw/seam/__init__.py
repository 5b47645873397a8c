"""What formats, backends and plugins are made of: where what is moved and how it is moved meet."""
