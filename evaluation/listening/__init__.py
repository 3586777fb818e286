"""The listening page and the ratings that it exports."""
