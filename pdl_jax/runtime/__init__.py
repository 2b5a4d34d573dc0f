"""Devices, processes and the machine: mesh, synchronisation, worker pools, compiler options."""
