mod destination;
mod kept;
mod rig;
