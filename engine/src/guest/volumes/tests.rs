mod logical;
mod partitions;
mod rig;
