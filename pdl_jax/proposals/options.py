"""Static options of the program: the grid, the search for the road, the ranking."""

import dataclasses

from pdl_jax.ops.integral_image import MAX_BOX_VOXELS

# Boxes reach at most this many voxels from their place, enlargement included.
MARGIN_VOXELS = 32


@dataclasses.dataclass(frozen=True)
class GridOptions:
    """The grid of voxels in the frame of the road: x right, y up from the road, z ahead.

    Attributes:
      voxel_m: side of a voxel. 3DOP's 0.2 m.
      x_m, y_m, z_m: (low, high) of the grid in metres; y starts below the road, so that boxes
        below it lie inside.
      min_height_m: points lower above the road than this belong to the road and occupy no voxel;
        otherwise no box on the road would be empty.
      enlargement_voxels: growth of a box on each side for the height contrast. 3DOP's 0.6 m.
      free_space_cell_px: side of the image cells that share the depth of their nearest point.
        LIDAR leaves many pixels without a point, but few such cells.
      free_space_margin_m: a voxel is free if it is nearer than the point on its ray by this.

    Raises:
      ValueError: a field has a value that it cannot have.
    """

    voxel_m: float = 0.2
    x_m: tuple[float, float] = (-40.0, 40.0)
    y_m: tuple[float, float] = (-0.4, 3.2)
    z_m: tuple[float, float] = (0.0, 70.0)
    min_height_m: float = 0.2
    enlargement_voxels: int = 3
    free_space_cell_px: int = 8
    free_space_margin_m: float = 0.2

    def __post_init__(self) -> None:
        for name in ('voxel_m', 'free_space_cell_px'):
            if not getattr(self, name) > 0:
                raise ValueError(f'{name} (={getattr(self, name)}) must be positive')
        if not 0 <= self.enlargement_voxels < MARGIN_VOXELS:
            raise ValueError(
                f'enlargement_voxels (={self.enlargement_voxels}) must lie in '
                f'0 .. {MARGIN_VOXELS - 1}'
            )
        if min(self.shape) < 1 or self.shape[0] * self.shape[1] * self.shape[2] > 2**26:
            raise ValueError(
                f'the grid has {self.shape} voxels: give ranges x_m, y_m, z_m and voxel_m with 1 '
                f'to 2^26 of them'
            )
        max_rows = MAX_BOX_VOXELS // (2 * MARGIN_VOXELS) ** 2
        if self.shape[1] > max_rows:
            raise ValueError(
                f'the grid is {self.shape[1]} voxels high: give a range y_m of at most {max_rows}'
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Numbers of voxels along x, y and z."""
        x, y, z = (
            round((high - low) / self.voxel_m) for low, high in (self.x_m, self.y_m, self.z_m)
        )
        return x, y, z

    @property
    def low_m(self) -> tuple[float, float, float]:
        """The corner of the grid with the lowest coordinates."""
        return self.x_m[0], self.y_m[0], self.z_m[0]

    @property
    def max_side_m(self) -> float:
        """Longest side of a box."""
        return 2 * (MARGIN_VOXELS - self.enlargement_voxels) * self.voxel_m


@dataclasses.dataclass(frozen=True)
class RoadOptions:
    """The search for the plane of the road by RANSAC.

    Attributes:
      camera_height_m: expected height of the camera above the road. KITTI's 1.65 m.
      height_range_m: largest difference from it.
      max_tilt_deg: largest angle between the camera's y axis and the normal of the road.
      max_distance_m: points closer to a plane than this support it.
      x_m, z_m: the road is fitted to points within |x| < x_m and z_m[0] < z < z_m[1].
      num_points: number of points drawn.
      num_planes: number of planes tried.
    """

    camera_height_m: float = 1.65
    height_range_m: float = 0.6
    max_tilt_deg: float = 10.0
    max_distance_m: float = 0.12
    x_m: float = 15.0
    z_m: tuple[float, float] = (2.0, 40.0)
    num_points: int = 4096
    num_planes: int = 256


@dataclasses.dataclass(frozen=True)
class ProposalOptions:
    """Everything that the program of proposals is compiled for.

    Attributes:
      grid: the voxels.
      road: the search for the plane of the road.
      num_candidates: candidates of a class that suppression gets, the best ones. Neighbours have
        similar scores, so that many candidates give few boxes apart from each other.
      num_proposals: boxes of a class at most; 3DOP's 2000.
      max_overlap: greedy suppression drops a box whose IoU with a better one is above this; 3DOP's
        0.75.
      overlap: 'image' for the IoU of boxes in the image, as in 3DOP, or 'space' for that of 3-D
        boxes.
      height_deviations: candidates stand on the road, and so many deviations of the objects'
        bottoms above and below it.

    Raises:
      ValueError: a field has a value that it cannot have.
    """

    grid: GridOptions = dataclasses.field(default_factory=GridOptions)
    road: RoadOptions = dataclasses.field(default_factory=RoadOptions)
    num_candidates: int = 32768
    num_proposals: int = 2000
    max_overlap: float = 0.75
    overlap: str = 'image'
    height_deviations: float = 1.96

    def __post_init__(self) -> None:
        if not 1 <= self.num_proposals <= self.num_candidates:
            raise ValueError(
                f'num_proposals (={self.num_proposals}) must lie in 1 .. num_candidates '
                f'(={self.num_candidates})'
            )
        if not 0 < self.max_overlap <= 1:
            raise ValueError(f'max_overlap (={self.max_overlap}) must lie in (0, 1]')
        if self.overlap not in ('image', 'space'):
            raise ValueError(f"overlap (={self.overlap!r}) must be 'image' or 'space'")
