"""3DOP: ranked 3-D boxes of objects on a road, from depth or LIDAR points and a calibration.

Source: Chen et al., 3D Object Proposals for Accurate Object Class Detection, NIPS 2015, and 3D
Object Proposals using Stereo Imagery for Accurate Object Class Detection, TPAMI 2018.
"""
