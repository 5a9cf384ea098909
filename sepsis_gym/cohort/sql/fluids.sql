-- Tonicity-adjusted intravenous fluid per bin.
-- Inputs:  inputs, bins
-- Output:  stay_id, bin, volume_ml; no row where none was given
-- Rule:    shared out by overlap; a row without duration belongs to the bin that holds its start.
SELECT i.stay_id, b.bin, sum((CASE
        WHEN i.bolus THEN i.volume_ml
        ELSE i.volume_ml * epoch(least(i.endtime, b.ends_at) - greatest(i.starttime, b.starts_at))
            / epoch(i.endtime - i.starttime)
    END)::DECIMAL(18, 6))::DOUBLE AS volume_ml
FROM inputs i
JOIN bins b ON b.stay_id = i.stay_id AND i.starttime < b.ends_at
    AND CASE WHEN i.bolus THEN i.starttime >= b.starts_at ELSE i.endtime > b.starts_at END
WHERE i.dropped IS NULL AND i.role = 'fluid'
GROUP BY i.stay_id, b.bin
