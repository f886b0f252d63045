"""The users API: the one app of the project, and the one whose answers Larder keeps."""
