"""Domains made of videos that exist: folders of files, nuScenes, KITTI, Waymo Open v2, BDD100K MOT, comma2k19."""
