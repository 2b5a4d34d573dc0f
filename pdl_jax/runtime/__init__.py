"""Devices, processes and the machine: the mesh, agreement between processes, worker pools, compiler options."""
