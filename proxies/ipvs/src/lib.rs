//! A NetworkProxy over IPVS, through generic netlink.
