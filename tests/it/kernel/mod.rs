//! Tests that need root and the kernel's BTF.

mod accounting;
mod cgroup_births;
mod cgroup_churn;
mod cgroup_sets;
mod cgroup_slots;
mod cgroups;
mod confinement;
mod connections;
mod http;
mod labels;
mod log;
mod notify;
mod pins;
mod privileges;
mod reload;
mod scrapes;
mod shortage;
mod sockets;
mod start;
mod tls;
mod web;
mod writers;
