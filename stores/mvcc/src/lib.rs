//! What stores that hold their objects in memory share: revisions, history, lists in the past and watches.
