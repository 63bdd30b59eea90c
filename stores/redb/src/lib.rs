//! A durable ObjectStore in a folder: a log, and a redb database behind it.
