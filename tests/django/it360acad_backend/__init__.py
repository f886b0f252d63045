"""The Django project that Larder's end-to-end tests stand in front of."""
