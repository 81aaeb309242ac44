"""Domains made of videos that exist: folders of files, nuScenes, KITTI."""
