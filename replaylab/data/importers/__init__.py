"""Importers: domains made of existing videos: folders of files, nuScenes, KITTI, Waymo Open v2, BDD100K MOT, comma2k19."""
