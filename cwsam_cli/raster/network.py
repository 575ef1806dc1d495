"""How GDAL waits for servers. Nothing is imported here: the command line sets this before all else."""

PATIENCE = {
    "GDAL_HTTP_CONNECTTIMEOUT": "15",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",  # seconds without an answer, or with a byte a second at most; a slow line is none
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1",
}
"""Without this GDAL waits for a silent server for ever."""

READS = PATIENCE | {
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "1",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "CPL_VSIL_CURL_CHUNK_SIZE": "262144",
}
"""For all scenes: one on this disk may be a VRT of files on a server."""

REMOTE_SCENES = READS | {
    "GDAL_DISABLE_READDIR_ON_OPEN": "TRUE",  # no listing of the server's folder; sidecars are asked for by name
    "GDAL_INGESTED_BYTES_AT_OPEN": "32768",
    "VSI_CACHE": "TRUE",
}
